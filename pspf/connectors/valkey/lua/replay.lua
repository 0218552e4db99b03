-- Makes dead letters retry entries of the cursors that gave them up: all of them or none. An ordered cursor's
-- owner, which has to take it again, holds later records of their keys back. One whose record was trimmed keeps its own
-- bytes, in the retry hash.
--
-- KEYS  of each letter: 1 stream of the dead letter  2 stream of the record  3 the cursor's meta  4 its due  5 its retry
-- ARGV  1 now, then of each letter: 1 id of the dead letter  2 id of the record  3 the retry, packed  4 the record, packed
-- Reply number of letters that were there; or {number of a letter (from 0)} whose cursor is missing
-- Caller: dead_letters.py

local now_ms = read_clock(ARGV[1])

local function exists(stream, id)
  return redis.call('XRANGE', stream, id, id)[1] ~= nil
end

local there, is_trimmed = {}, {}
for letter = 0, #KEYS / 5 - 1 do
  local key, arg = letter * 5, letter * 4 + 1
  if exists(KEYS[key + 1], ARGV[arg + 1]) then
    if redis.call('HEXISTS', KEYS[key + 3], 'position') == 0 then return {letter} end
    there[#there + 1] = letter
    is_trimmed[letter] = not exists(KEYS[key + 2], ARGV[arg + 2])
  end
end

for letter = 0, #KEYS / 5 - 1 do
  local key = letter * 5
  local wrong = check_keys(key + 1, key + 1, 'stream', 'XDEL') or check_keys(key + 3, key + 3, 'hash', 'HINCRBY')
    or check_keys(key + 4, key + 4, 'zset', 'ZADD') or check_keys(key + 5, key + 5, 'hash', 'HSET')
  if wrong then return wrong end
end

for _, letter in ipairs(there) do
  local key, arg = letter * 5, letter * 4 + 1
  local due, retry, id = KEYS[key + 4], KEYS[key + 5], ARGV[arg + 2]
  redis.call('HSET', retry, id, ARGV[arg + 3])
  if is_trimmed[letter] then redis.call('HSET', retry, '+' .. id, ARGV[arg + 4]) end
  redis.call('ZADD', due, text(now_ms), id)
  redis.call('HINCRBY', KEYS[key + 3], 'seq', 1)
  redis.call('XDEL', KEYS[key + 1], ARGV[arg + 1])
end
return #there
