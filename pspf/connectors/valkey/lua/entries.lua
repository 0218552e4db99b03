-- What a commit does to the entries of its cursor. Stands before commit_ordered.
--
-- In KEYS behind `base`: the entries of each namespace that is written, then the order of each, then both of each
-- namespace that is dropped. In ARGV, from some index on: the namespaces that are dropped, which goes first; then of
-- each that is written: its number, number of entries, number of keys to forget, key and value of each, each key to
-- forget.

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

-- Drops `dropped` namespaces and writes `count`; returns the index behind the last argument.
local function write_entries(spaces, base, count, dropped, at)
  call_with(KEYS, base + 2 * count + 1, base + 2 * (count + dropped), 'UNLINK')
  call_with(ARGV, at, at + dropped - 1, 'SREM', spaces)
  at = at + dropped
  for number = 1, count do
    local entries, order = KEYS[base + number], KEYS[base + count + number]
    local namespace, kept, gone = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    at = at + 3
    for from = at, at + 2 * kept - 1, CHUNK do
      local last = math.min(from + CHUNK - 1, at + 2 * kept - 1)
      if redis.call('HSET', entries, unpack(ARGV, from, last)) > 0 then
        local members = {}
        for place = from, last, 2 do
          members[#members + 1] = '0'
          members[#members + 1] = ARGV[place]
        end
        redis.call('ZADD', order, unpack(members))
      end
    end
    at = at + 2 * kept
    call_with(ARGV, at, at + gone - 1, 'HDEL', entries)
    call_with(ARGV, at, at + gone - 1, 'ZREM', order)
    at = at + gone
    if kept > 0 then
      redis.call('SADD', spaces, namespace)
    elseif redis.call('EXISTS', entries) == 0 then
      redis.call('SREM', spaces, namespace)
    end
  end
  return at
end
