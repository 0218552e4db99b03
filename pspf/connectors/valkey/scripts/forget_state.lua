-- Forgets the state of some record keys of a cursor whose lease it ends, so that nobody adds to it.
--
-- KEYS  1 cursor's meta  2 keys, then the state of the record keys in ARGV
-- ARGV  the record keys
-- Reply number of record keys that are left
-- Caller: seeking.py

if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'token', '', 'session', '', 'clean', '1', 'intent', '')
  redis.call('HINCRBY', KEYS[1], 'seq', 1)
end
for number = 1, #ARGV do
  redis.call('UNLINK', KEYS[number + 2])
  redis.call('SREM', KEYS[2], ARGV[number])
end
return redis.call('SCARD', KEYS[2])
