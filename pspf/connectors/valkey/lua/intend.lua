-- Notes that these suspect records, and nothing else of this session, are about to run.
--
-- KEYS  1 stream  2 cursor's meta  3 suspects  4 lent
-- ARGV  1 group  2 session  3 label of this run, then the ids in order
-- Reply number of records that are this session's
-- Caller: shared.py

local stream, meta, suspects = KEYS[1], KEYS[2], KEYS[3]
local group, session, label = ARGV[1], ARGV[2], ARGV[3]
local own = {}
for at = 4, #ARGV do
  if #redis.call('XPENDING', stream, group, ARGV[at], ARGV[at], 1, session) == 1
    or redis.call('HGET', KEYS[4], ARGV[at]) == session then
    own[#own + 1] = ARGV[at]
  end
end
if #own == 0 then return 0 end
local wrong = check_keys(2, 3, 'hash', 'HSET')
if wrong then return wrong end
redis.call('HSET', meta, 's:' .. session, label .. ' ' .. #own .. ' ' .. own[math.ceil(#own / 2)])
for _, id in ipairs(own) do
  local crashes = string.match(redis.call('HGET', suspects, id) or '', ' (%d+)$')
  redis.call('HSET', suspects, id, label .. ' ' .. (crashes or '0'))
end
return #own
