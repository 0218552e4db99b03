-- Shows a worker in the roster, and forgets those that were shown no longer for a while.
--
-- KEYS  1 until  2 status
-- ARGV  1 now  2 worker  3 its status  4 ms for which it is shown  5 ms for which a name is kept beyond that
-- Reply 1
-- Caller: roster.py

local wrong = check_keys(1, 1, 'zset', 'ZADD', 'ZREM', 'ZRANGEBYSCORE') or check_keys(2, 2, 'hash', 'HSET', 'HDEL')
if wrong then return wrong end

local now_ms = read_clock(ARGV[1])
redis.call('HSET', KEYS[2], ARGV[2], text(now_ms) .. ' ' .. ARGV[3])
redis.call('ZADD', KEYS[1], now_ms + ARGV[4], ARGV[2])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms - ARGV[5])) do
  redis.call('ZREM', KEYS[1], gone)
  redis.call('HDEL', KEYS[2], gone)
end
return 1
