-- Shows that a session lives, and what it consumes here.
--
-- KEYS  1 the session's live key  2 sessions
-- ARGV  1 now  2 lease in ms  3 session  4 its entry in `sessions`
-- Reply 1
-- Caller: liveness.py

local wrong = check_keys(1, 1, 'string', 'PEXPIREAT', 'SET') or check_keys(2, 2, 'hash', 'HGET', 'HSET')
if wrong then return wrong end

local now_ms, shift = read_clock(ARGV[1])
local ends = text(now_ms + ARGV[2] + shift)
if redis.call('PEXPIREAT', KEYS[1], ends) == 0 then
  redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ends)
end
if redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[4] then
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
end
return 1
