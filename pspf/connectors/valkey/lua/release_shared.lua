-- Gives back what a session has in hand, uncharged and free at once: a bounded step. With the last
-- step the session is no consumer of the group any more.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 suspects  5 lent
-- ARGV  1 group  2 session
-- Reply '1' to call again, else '0'
-- Caller: shared.py

local STEP = 1000

local stream, meta, due, suspects, lent = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, session = ARGV[1], ARGV[2]
if not has_group(stream, group) then return '0' end
local wrong = check_keys(1, 1, 'stream', 'XACK', 'XGROUP DELCONSUMER') or check_keys(2, 2, 'hash', 'HINCRBY', 'HDEL')
  or check_keys(3, 3, 'zset', 'ZADD') or check_keys(4, 5, 'hash', 'HEXISTS', 'HDEL')
if wrong then return wrong end

local borrowed = redis.call('HGETALL', lent)
local rows = redis.call('XPENDING', stream, group, '-', '+', STEP, session)
if #rows > 0 then
  -- Raised first: a commit that is still on its way must not take XACK for a proof.
  redis.call('HINCRBY', meta, 'takes', 1)
  for number = 1, #rows do
    local id = rows[number][1]
    redis.call('ZADD', due, redis.call('HEXISTS', suspects, id) == 1 and -2 or -1, id)
    redis.call('XACK', stream, group, id)
  end
end
if #rows == STEP then return '1' end
for at = 1, #borrowed, 2 do
  local id = borrowed[at]
  if borrowed[at + 1] == session then
    redis.call('ZADD', due, redis.call('HEXISTS', suspects, id) == 1 and -2 or -1, id)
    redis.call('HDEL', lent, id)
  end
end
redis.call('XGROUP', 'DELCONSUMER', stream, group, session)
redis.call('HDEL', meta, 'c:' .. session, 'l:' .. session, 's:' .. session)
return '0'
