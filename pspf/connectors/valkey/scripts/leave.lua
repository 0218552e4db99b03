-- Removes a session that has given everything back.
--
-- KEYS  1 the session's live key  2 sessions
-- ARGV  1 session
-- Reply whether it was there
-- Caller: liveness.py

redis.call('DEL', KEYS[1])
return redis.call('HDEL', KEYS[2], ARGV[1])
