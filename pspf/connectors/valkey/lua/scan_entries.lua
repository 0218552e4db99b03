-- A page of a namespace, in order of key.
--
-- KEYS  1 the namespace's order  2 its entries
-- ARGV  1 where it begins: '-', or '(' and the key before  2 number of entries at most
-- Reply key, value, key, value, ...
-- Caller: entries.py

local keys = redis.call('ZRANGE', KEYS[1], ARGV[1], '+', 'BYLEX', 'LIMIT', 0, ARGV[2])
local reply = {}
for from = 1, #keys, 4000 do
  local last = math.min(from + 3999, #keys)
  local values = redis.call('HMGET', KEYS[2], unpack(keys, from, last))
  for number = from, last do
    reply[#reply + 1] = keys[number]
    reply[#reply + 1] = values[number - from + 1] or ''
  end
end
return reply
