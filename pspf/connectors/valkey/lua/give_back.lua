-- Gives back what a group has in hand, uncharged and free at once, from any worker: a bounded step.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 suspects
-- ARGV  1 group
-- Reply number of records given back
-- Caller: seeking.py

local STEP = 1000

local stream, meta, due, suspects, group = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
if not has_group(stream, group) then return 0 end
local wrong = check_keys(1, 1, 'stream', 'XACK') or check_keys(2, 2, 'hash', 'HINCRBY')
  or check_keys(3, 3, 'zset', 'ZADD') or check_keys(4, 4, 'hash', 'HEXISTS')
if wrong then return wrong end

local rows = redis.call('XPENDING', stream, group, '-', '+', STEP)
if #rows == 0 then return 0 end
-- Raised first: a commit that is still on its way must not take XACK for a proof.
redis.call('HINCRBY', meta, 'takes', 1)
for _, row in ipairs(rows) do
  redis.call('ZADD', due, redis.call('HEXISTS', suspects, row[1]) == 1 and -2 or -1, row[1])
  redis.call('XACK', stream, group, row[1])
end
return #rows
