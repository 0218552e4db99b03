-- What a commit does to the windows of its cursor. Stands before commit_ordered.
--
-- In KEYS behind `base`: the states of each slot, then the keys of each. In ARGV, from some index on, for each
-- slot: its number, '1' where all that it held goes first, number of states, number of keys to forget; then
-- key and state of each, then each key to forget.

local CHUNK = 4000

-- Writes `count` slots; returns the index behind the last argument.
local function write_windows(slots, base, count, at)
  for number = 1, count do
    local states, keys = KEYS[base + number], KEYS[base + count + number]
    local slot, is_dropped, kept, gone = ARGV[at], ARGV[at + 1] == '1', tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    at = at + 4
    if is_dropped then redis.call('UNLINK', states, keys) end
    for from = at, at + 2 * kept - 1, CHUNK do
      local last = math.min(from + CHUNK - 1, at + 2 * kept - 1)
      if redis.call('HSET', states, unpack(ARGV, from, last)) > 0 then
        local members = {}
        for place = from, last, 2 do
          members[#members + 1] = '0'
          members[#members + 1] = ARGV[place]
        end
        redis.call('ZADD', keys, unpack(members))
      end
    end
    at = at + 2 * kept
    for from = at, at + gone - 1, CHUNK do
      local last = math.min(from + CHUNK - 1, at + gone - 1)
      redis.call('HDEL', states, unpack(ARGV, from, last))
      redis.call('ZREM', keys, unpack(ARGV, from, last))
    end
    at = at + gone
    redis.call(redis.call('EXISTS', states) == 1 and 'SADD' or 'SREM', slots, slot)
  end
  return at
end
