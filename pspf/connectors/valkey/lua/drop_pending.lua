-- Finishes records of a cursor without handling them: a bounded step. An ordered cursor's owner, which has to take it
-- again, sets right what was held back behind them.
--
-- KEYS  1 stream  2 the partition's meta  3 cursor's meta  4 due  5 retry  6 suspects  7 lent
-- ARGV  1 the group in shared mode, else empty  2.. ids
-- Reply number of records that were not done
-- Caller: pending.py

local stream, cursor, due, retry, group = KEYS[1], KEYS[3], KEYS[4], KEYS[5], ARGV[1]
local wrong = check_keys(1, 1, 'stream', 'XACK') or check_keys(2, 3, 'hash', 'HINCRBY')
  or check_keys(4, 4, 'zset', 'ZREM') or check_keys(5, 7, 'hash', 'HDEL')
if wrong then return wrong end

local count, taken = 0, 0
for number = 2, #ARGV do
  local id = ARGV[number]
  local was_due = redis.call('ZREM', due, id)
  local was_in_hand = group ~= '' and redis.call('XACK', stream, group, id) + redis.call('HDEL', KEYS[7], id) or 0
  redis.call('HDEL', retry, id, '+' .. id)
  redis.call('HDEL', KEYS[6], id)
  taken = taken + was_in_hand
  if was_due + was_in_hand > 0 then count = count + 1 end
end
if taken > 0 then redis.call('HINCRBY', cursor, 'takes', 1) end
if count > 0 then
  redis.call('HINCRBY', cursor, 'seq', 1)
  redis.call('HINCRBY', KEYS[2], 'dropped', count)
end
return count
