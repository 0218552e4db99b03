-- Takes back the crash that a record was charged with when the session that ran it alone was taken for dead: it lives.
--
-- KEYS  1 cursor's meta  2 suspects (shared mode), else the same meta
-- ARGV  1 id of the record  2 '1' in the shared mode, where each record has its own count
-- Reply 1 where a crash was taken back, else 0
-- Caller: refunds.py

local id = ARGV[1]
if ARGV[2] == '1' then
  local of, crashes = string.match(redis.call('HGET', KEYS[2], id) or '', '^(%S+) (%d+)$')
  if not of or crashes == '0' then return 0 end
  redis.call('HSET', KEYS[2], id, of .. ' ' .. text(crashes - 1))
  return 1
end
local cursor = redis.call('HMGET', KEYS[1], 'intent', 'crashes')
if cursor[1] ~= id or (tonumber(cursor[2] or '') or 0) < 1 then return 0 end
redis.call('HSET', KEYS[1], 'crashes', text(cursor[2] - 1))
return 1
