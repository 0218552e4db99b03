-- Removes a cursor whose state is gone already, and its consumer group.
--
-- KEYS  1 stream  2 the partition's meta  3 cursors  4 cursor's meta  5 due  6 retry  7 suspects  8 lent  9 spaces
-- ARGV  1 the cursor's field in `cursors`  2 its group on the stream
-- Reply 1; 0 where it was not there; -1 where it has state again
-- Caller: seeking.py

if redis.call('EXISTS', KEYS[9]) == 1 then return -1 end
local wrong = check_keys(1, 1, nil, 'XGROUP DESTROY') or check_keys(2, 2, 'hash', 'HINCRBY')
  or check_keys(3, 3, 'hash', 'HDEL') or check_keys(4, 8, nil, 'UNLINK')
if wrong then return wrong end

local was_there = redis.call('HDEL', KEYS[3], ARGV[1])
if was_there == 1 then redis.call('HINCRBY', KEYS[2], 'cursors', 1) end
redis.call('UNLINK', KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8])
if redis.call('TYPE', KEYS[1])['ok'] == 'stream' then redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[2]) end
return was_there
