-- Forgets some of what a cursor remembers, and ends its lease, so that nobody adds to it.
--
-- KEYS  1 cursor's meta  2 keys  3 slots, then what is removed with the record keys and slots in ARGV
-- ARGV  1 number of record keys, then these, then slots
-- Reply number of record keys and slots that are left
-- Caller: seeking.py

local wrong = check_keys(1, 1, 'hash', 'HSET', 'HINCRBY') or check_keys(2, 3, 'set', 'SREM', 'SCARD')
  or check_keys(4, #KEYS, nil, 'UNLINK')
if wrong then return wrong end

if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'token', '', 'session', '', 'clean', '1', 'intent', '')
  redis.call('HINCRBY', KEYS[1], 'seq', 1)
end
for number = 4, #KEYS do redis.call('UNLINK', KEYS[number]) end
local record_keys = tonumber(ARGV[1])
for number = 2, #ARGV do redis.call('SREM', number <= record_keys + 1 and KEYS[2] or KEYS[3], ARGV[number]) end
return redis.call('SCARD', KEYS[2]) + redis.call('SCARD', KEYS[3])
