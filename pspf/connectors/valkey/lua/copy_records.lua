-- Appends copies of entries, as they are, under ids that the caller has chosen.
--
-- KEYS  1 stream
-- ARGV  for each entry: its id, number of its fields and values together, each of them
-- Reply number of entries
-- Caller: repartition.py

local at, count = 1, 0
while at <= #ARGV do
  local size = tonumber(ARGV[at + 1])
  redis.call('XADD', KEYS[1], ARGV[at], unpack(ARGV, at + 2, at + 1 + size))
  at = at + 2 + size
  count = count + 1
end
return count
