-- Removes a session that has given everything back.
--
-- KEYS  1 the session's live key  2 sessions
-- ARGV  1 session
-- Reply whether it was there
-- Caller: liveness.py

local wrong = check_keys(1, 1, nil, 'DEL') or check_keys(2, 2, 'hash', 'HDEL')
if wrong then return wrong end

redis.call('DEL', KEYS[1])
return redis.call('HDEL', KEYS[2], ARGV[1])
