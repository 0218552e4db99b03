-- Shuts workers of formats 1 to 3 out of an ordered cursor, before anything of it is moved: one that was silent for longer
-- than its lease (stopped, or cut off) would go on afterwards, and keep state where nobody looks any more. Its lease ends,
-- and where it lists its state and windows is no set: it can't commit any.
--
-- KEYS  1 cursor's meta  2 the set of record keys  3 that set while it is moved  4 the set of slots  5 that set meanwhile
-- ARGV  1 what is in their place  2 for how many seconds
-- Reply 1; 0 where it is done already: the lease's owner is of this version
-- Caller: upgrade.py

if redis.call('TYPE', KEYS[2])['ok'] == 'string' then return 0 end
local wrong = check_keys(1, 1, 'hash', 'HSET') or check_keys(2, 5, 'set', 'SADD', 'SET', 'RENAME')
if wrong then return wrong end

for at = 2, 4, 2 do
  if redis.call('EXISTS', KEYS[at + 1]) == 1 then -- the seal of an update that was interrupted has run out
    for _, member in ipairs(redis.call('SMEMBERS', KEYS[at])) do redis.call('SADD', KEYS[at + 1], member) end
  elseif redis.call('EXISTS', KEYS[at]) == 1 then
    redis.call('RENAME', KEYS[at], KEYS[at + 1])
  end
  redis.call('SET', KEYS[at], ARGV[1], 'EX', ARGV[2])
end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'token', '', 'session', '') end
return 1
