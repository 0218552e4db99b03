-- Forgets what a cursor knew of a stream that is gone (DEL, FLUSHALL): offset and state together.
-- Does nothing where another worker has been here first. A bounded part of the state a call.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 suspects  6 keys  7 slots, then what is removed with the
--       record keys and slots in ARGV
-- ARGV  1 the cursor's group on the stream  2 number of record keys, then these, then slots
-- Reply 'HERE' the stream is the cursor's; 'STATE' more state is left; 'DONE'
-- Caller: gone.py

local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1])
if not pending['err'] then return 'HERE' end
for number = 8, #KEYS do redis.call('UNLINK', KEYS[number]) end
local record_keys = tonumber(ARGV[2])
for number = 3, #ARGV do redis.call('SREM', number <= record_keys + 2 and KEYS[6] or KEYS[7], ARGV[number]) end
if redis.call('EXISTS', KEYS[6], KEYS[7]) > 0 then return 'STATE' end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return 'DONE'
