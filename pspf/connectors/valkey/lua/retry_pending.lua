-- Makes records of a cursor that wait for a retry due now.
--
-- KEYS  1 cursor's meta  2 due
-- ARGV  1 now  2.. ids
-- Reply number of records that were not due yet
-- Caller: pending.py

local now_ms = read_clock(ARGV[1])
local wrong = check_keys(1, 1, 'hash', 'HINCRBY') or check_keys(2, 2, 'zset', 'ZADD')
if wrong then return wrong end

local count = 0
for number = 2, #ARGV do
  local due_ms = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[number]) or '-1')
  if due_ms > now_ms and due_ms < math.huge then
    redis.call('ZADD', KEYS[2], text(now_ms), ARGV[number])
    count = count + 1
  end
end
if count > 0 then redis.call('HINCRBY', KEYS[1], 'seq', 1) end
return count
