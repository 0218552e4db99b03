-- Sets when records of an ordered cursor that wait are due, where the lease is the caller's: a bounded step.
--
-- KEYS  1 cursor's meta  2 due
-- ARGV  1 token, then of each record: when it is due ('+inf' held back), its id
-- Reply 1, or 0 where the lease is another's
-- Caller: waiting.py

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local wrong = check_keys(2, 2, 'zset', 'ZADD')
if wrong then return wrong end
redis.call('ZADD', KEYS[2], unpack(ARGV, 2))
return 1
