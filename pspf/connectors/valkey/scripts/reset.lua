-- Forgets what a cursor knew of a stream that is gone (DEL, FLUSHALL): offset and state together.
-- Does nothing where another worker has been here first. A bounded number of record keys a call.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 suspects  6 keys, then the state of record keys
-- ARGV  1 the cursor's group on the stream, then the record keys whose state KEYS name
-- Reply 'HERE' the stream is the cursor's; 'STATE' more state is left; 'DONE'
-- Caller: gone.py

local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
if not pending['err'] then return 'HERE' end
for number = 2, #ARGV do
  redis.call('UNLINK', KEYS[number + 5])
  redis.call('SREM', KEYS[6], ARGV[number])
end
if redis.call('EXISTS', KEYS[6]) == 1 then return 'STATE' end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return 'DONE'
