-- Forgets records of an ordered cursor that wait and are neither in the stream (XDEL by hand) nor replayed. The cursor has moved
-- by it: its owner has to take it again, and sets right what waited behind one of them.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry
-- ARGV  1 token, then the ids
-- Reply number of records forgotten, -1 where the lease is another's
-- Caller: ordered.py

local stream, meta, due, retry = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('HGET', meta, 'token') ~= ARGV[1] then return -1 end
local wrong = check_keys(1, 1, 'stream', 'XRANGE') or check_keys(2, 2, 'hash', 'HINCRBY')
  or check_keys(3, 3, 'zset', 'ZREM') or check_keys(4, 4, 'hash', 'HDEL')
if wrong then return wrong end

local forgotten = 0
for number = 2, #ARGV do
  local id = ARGV[number]
  if #redis.call('XRANGE', stream, id, id) == 0 and redis.call('HEXISTS', retry, '+' .. id) == 0 then
    if forgotten == 0 then redis.call('HINCRBY', meta, 'seq', 1) end
    redis.call('ZREM', due, id)
    redis.call('HDEL', retry, id)
    forgotten = forgotten + 1
  end
end
return forgotten
