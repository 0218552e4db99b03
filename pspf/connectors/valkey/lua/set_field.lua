-- Sets a field of a hash that is there, where the field is as expected.
--
-- KEYS  1 the topics, or a partition's meta
-- ARGV  1 field  2 its value so far, empty: whatever it is  3 its new value
-- Reply 1, or 0 where it is another by now, or there is no such hash
-- Caller: retaining.py

local wrong = check_keys(1, 1, 'hash', 'HSET')
if wrong then return wrong end
if ARGV[2] == '' then
  if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
elseif redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
