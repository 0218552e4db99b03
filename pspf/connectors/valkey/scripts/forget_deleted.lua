-- Forgets records of an ordered cursor that wait and are no more in the stream (XDEL by hand). What
-- waited behind one of them is due. The cursor has moved by it: its owner has to read it again.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry
-- ARGV  1 now  2 token, then the ids
-- Reply number of records forgotten, -1 where the lease is another's
-- Caller: ordered.py

local stream, meta, due, retry = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('HGET', meta, 'token') ~= ARGV[2] then return -1 end
local wrong = check_keys(1, 1, 'stream', 'XRANGE') or check_keys(2, 2, 'hash', 'HINCRBY')
  or check_keys(3, 3, 'zset', 'ZREM', 'ZADD', 'ZRANGEBYSCORE') or check_keys(4, 4, 'hash', 'HGET', 'HDEL')
if wrong then return wrong end

local now_ms = read_clock(ARGV[1])

-- The record key in a packed retry; false for none.
local function key_of(packed)
  local size, at = string.match(packed or '', '^%d+ %S+ (%-?%d+) ()')
  if not size or size == '-1' then return false end
  return string.sub(packed, at, at + size - 1)
end

local forgotten, freed = 0, {}
for number = 3, #ARGV do
  local id = ARGV[number]
  if #redis.call('XRANGE', stream, id, id) == 0 then
    if forgotten == 0 then redis.call('HINCRBY', meta, 'seq', 1) end
    local key = key_of(redis.call('HGET', retry, id))
    if key then freed[key] = true end
    redis.call('ZREM', due, id)
    redis.call('HDEL', retry, id)
    forgotten = forgotten + 1
  end
end
if next(freed) then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '+inf', '+inf')) do
    if freed[key_of(redis.call('HGET', retry, id))] then redis.call('ZADD', due, text(now_ms), id) end
  end
end
return forgotten
