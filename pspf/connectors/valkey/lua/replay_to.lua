-- Moves a dead letter to the end of another topic's partition.
--
-- KEYS  1 stream of the dead letter  2 stream of the target  3 its meta
-- ARGV  1 now  2 id of the dead letter  3 number of partitions of the target that the caller knows  4 shape  5.. parts
-- Reply 1; 0 where the letter was not there; -1 where the target is not there or has other partitions
-- Caller: dead_letters.py

if not redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1] then return 0 end
if redis.call('HGET', KEYS[3], 'partitions') ~= ARGV[3] then return -1 end
local _, _, stamp = read_clock(ARGV[1])
local failed = check_keys(1, 1, 'stream', 'XDEL')
if failed then return failed end

local id = append_records(KEYS[2], stamp, ARGV[4], 5)
if type(id) == 'table' then return id end
redis.call('XDEL', KEYS[1], ARGV[2])
return 1
