-- Moves some of the state of an ordered cursor from where formats 1 to 3 have it, a hash per record key, to the entries.
--
-- KEYS  1 the set of record keys  2 spaces  3 the entries of state  4 their order, then the hash of each record key
-- ARGV  1 the namespace of state  2.. record keys
-- Reply number of record keys that are left
-- Caller: upgrade.py

local MOST = 1000

local wrong = check_keys(1, 1, 'set', 'SREM', 'SCARD') or check_keys(2, 2, 'set', 'SADD')
  or check_keys(3, 3, 'hash', 'HSET') or check_keys(4, 4, 'zset', 'ZADD')
  or check_keys(5, #KEYS, 'hash', 'HSCAN', 'HDEL', 'EXISTS')
if wrong then return wrong end

-- The key of a value is pspf/records.py's: the record key, its zero bytes escaped, an end, the name.
local function prefix_of(record_key)
  return (string.gsub(record_key, '%z', '\0\255')) .. '\0\1'
end

-- Moves up to about `room` values of one record key; returns how many.
local function move(old, record_key, room)
  local prefix, scan_at, found = prefix_of(record_key), '0', {}
  repeat -- what was moved before has left many empty places
    scan_at, found = unpack(redis.call('HSCAN', old, scan_at, 'COUNT', room))
  until #found > 0 or scan_at == '0'
  local pairs, members, names = {}, {}, {}
  for at = 1, #found, 2 do
    local key = prefix .. found[at]
    pairs[#pairs + 1], pairs[#pairs + 2] = key, found[at + 1]
    members[#members + 1], members[#members + 2] = '0', key
    names[#names + 1] = found[at]
  end
  for from = 1, #pairs, 4000 do
    redis.call('HSET', KEYS[3], unpack(pairs, from, math.min(from + 3999, #pairs)))
    redis.call('ZADD', KEYS[4], unpack(members, from, math.min(from + 3999, #members)))
  end
  for from = 1, #names, 4000 do redis.call('HDEL', old, unpack(names, from, math.min(from + 3999, #names))) end
  return #names
end

local room = MOST
for number = 5, #KEYS do
  if room <= 0 then break end
  local record_key = ARGV[number - 3]
  room = room - 1 - move(KEYS[number], record_key, room)
  if redis.call('EXISTS', KEYS[number]) == 0 then redis.call('SREM', KEYS[1], record_key) end
end
if redis.call('EXISTS', KEYS[3]) == 1 then redis.call('SADD', KEYS[2], ARGV[1]) end
return redis.call('SCARD', KEYS[1])
