-- Writes fields of an ordered cursor's meta, where the lease is the caller's: an intent, a release.
--
-- KEYS  1 cursor's meta
-- ARGV  1 token, then fields and values
-- Reply 1, or 0 where the lease is another's
-- Caller: ordered.py

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
