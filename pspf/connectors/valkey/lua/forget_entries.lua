-- Forgets some of the entries of a cursor. Where a seek has marked it, nobody has the lease; where that mark is gone,
-- another was here and it is done. Otherwise the lease ends, so that nobody adds to it.
--
-- KEYS  1 cursor's meta  2 spaces, then what is removed with the namespaces in ARGV
-- ARGV  1 '1' only where a seek has marked it  2.. namespaces
-- Reply number of namespaces that are left
-- Caller: forgetting.py

local wrong = check_keys(1, 1, 'hash', 'HSET', 'HINCRBY', 'HDEL') or check_keys(2, 2, 'set', 'SREM', 'SCARD')
  or check_keys(3, #KEYS, nil, 'UNLINK')
if wrong then return wrong end

if ARGV[1] == '1' then
  if redis.call('HEXISTS', KEYS[1], 'forget') == 0 then return 0 end
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'token', '', 'session', '', 'clean', '1', 'intent', '')
  redis.call('HINCRBY', KEYS[1], 'seq', 1)
end
for number = 3, #KEYS do redis.call('UNLINK', KEYS[number]) end
for number = 2, #ARGV do redis.call('SREM', KEYS[2], ARGV[number]) end
local left = redis.call('SCARD', KEYS[2])
if left == 0 then redis.call('HDEL', KEYS[1], 'forget') end
return left
