-- Gives some slots of windows of an ordered cursor the names of now: in formats 1 to 3 they had others.
--
-- KEYS  1 the set of slots  2 spaces, then of each slot: its states and its keys; its entries and their order
-- ARGV  slots
-- Reply number of slots that are left
-- Caller: upgrade.py

local wrong = check_keys(1, 1, 'set', 'SREM', 'SCARD') or check_keys(2, 2, 'set', 'SADD')
  or check_keys(3, #KEYS, nil, 'EXISTS', 'RENAME')
if wrong then return wrong end

for number, slot in ipairs(ARGV) do
  local states, keys, entries, order = unpack(KEYS, 4 * number - 1, 4 * number + 2)
  if redis.call('EXISTS', states, keys) == 2 then
    redis.call('SADD', KEYS[2], slot)
    redis.call('RENAME', states, entries)
    redis.call('RENAME', keys, order)
  end
  redis.call('SREM', KEYS[1], slot)
end
return redis.call('SCARD', KEYS[1])
