-- A page of a slot of windows, in the order of keys.
--
-- KEYS  1 the slot's keys  2 the slot's states
-- ARGV  1 where it begins: '-', or '(' and the key before  2 number of entries at most
-- Reply key, state, key, state, ...
-- Caller: entries.py

local keys = redis.call('ZRANGE', KEYS[1], ARGV[1], '+', 'BYLEX', 'LIMIT', 0, ARGV[2])
local reply = {}
for from = 1, #keys, 4000 do
  local last = math.min(from + 3999, #keys)
  local states = redis.call('HMGET', KEYS[2], unpack(keys, from, last))
  for number = from, last do
    reply[#reply + 1] = keys[number]
    reply[#reply + 1] = states[number - from + 1] or ''
  end
end
return reply
