-- Who consumes a partition, and until when each of them lives.
--
-- KEYS  1 sessions, then the live keys of the sessions that the caller knows
-- ARGV  1 now
-- Reply {1 or 0 for each of these (whether it lives), all of `sessions`}
-- Caller: membership of session.py and inspect.py

local now_ms, shift = read_clock(ARGV[1])
local alive = {}
for number = 2, #KEYS do
  alive[number - 1] = is_alive(KEYS[number], now_ms, shift) and 1 or 0
end
return {alive, redis.call('HGETALL', KEYS[1])}
