-- What a commit does to the windows of its cursor. Stands before commit_ordered.
--
-- In KEYS behind `base`: the states of each slot that is written, then the keys of each, then both of each slot
-- that is dropped. In ARGV, from some index on: the slots that are dropped, which goes first; then of each that is
-- written: its number, number of states, number of keys to forget, key and state of each, each key to forget.

local CHUNK = 4000

-- Calls a command on a key with a stretch of ARGV or KEYS; returns the sum of what it replies.
local function call_with(list, first, last, ...)
  local sum = 0
  for from = first, last, CHUNK do
    local arguments = {...}
    for place = from, math.min(from + CHUNK - 1, last) do arguments[#arguments + 1] = list[place] end
    sum = sum + redis.call(unpack(arguments))
  end
  return sum
end

-- Drops `dropped` slots and writes `count`; returns the index behind the last argument.
local function write_windows(slots, base, count, dropped, at)
  call_with(KEYS, base + 2 * count + 1, base + 2 * (count + dropped), 'UNLINK')
  call_with(ARGV, at, at + dropped - 1, 'SREM', slots)
  at = at + dropped
  for number = 1, count do
    local states, keys = KEYS[base + number], KEYS[base + count + number]
    local slot, kept, gone = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    at = at + 3
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
    call_with(ARGV, at, at + gone - 1, 'HDEL', states)
    call_with(ARGV, at, at + gone - 1, 'ZREM', keys)
    at = at + gone
    if kept > 0 then
      redis.call('SADD', slots, slot)
    elseif redis.call('EXISTS', states) == 0 then
      redis.call('SREM', slots, slot)
    end
  end
  return at
end
