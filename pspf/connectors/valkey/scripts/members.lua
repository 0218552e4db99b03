-- Who consumes a partition, and how long each of them lives yet.
--
-- KEYS  1 sessions, then the live keys of the sessions that the caller knows
-- ARGV  1 now
-- Reply {ms that each of these has left (0 or less: dead), all of `sessions`}
-- Caller: members.py

local now_ms, shift = read_clock(ARGV[1])
local left = {}
for number = 2, #KEYS do
  left[number - 1] = ms_left(KEYS[number], now_ms, shift)
end
return {left, redis.call('HGETALL', KEYS[1])}
