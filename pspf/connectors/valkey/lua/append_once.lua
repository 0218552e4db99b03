-- Appends records to one partition, all or none, but for those whose event id is in the de-dup window.
--
-- The window is a ring of hashes, event id -> entry id, that are dropped whole. Its state is in meta:
-- dedup_at (the number of the bucket that fills), dedup_count, dedup_first, and per place of the ring
-- dedup_last:<place>, the time of its newest id.
--
-- KEYS  1 stream  2 meta  3.. the ring
-- ARGV  1 now  2 number of partitions that the caller knows  3 shapes of the records
--       4 marks: a character per record, 1 where it has an event id; empty where each has one of its own and
--         nothing but a payload beside it
--       5 ids that fill a bucket  6 the window in ms  7.. the ids, then the records' parts
-- Reply {first id or empty, index of a duplicate (from 0), the id of the first one with its event id, ...};
--       the others follow the first id in order. 0 where the topic is not there or has other partitions.
-- Caller: log.py

local CHUNK = 2000

local stream, meta = KEYS[1], KEYS[2]
if redis.call('HGET', meta, 'partitions') ~= ARGV[2] then return 0 end
local now_ms, shift, stamp = read_clock(ARGV[1])
local shapes, marks, capacity, window = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local ring = #KEYS - 2

local state = redis.call('HMGET', meta, 'dedup_at', 'dedup_count', 'dedup_first')
local bucket, count, first_ms = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0)

local function place_of(number) return number % ring end

local is_plain = marks == ''
local first_id, ids = 7, 0
if is_plain then
  ids, marks = #shapes, string.rep('1', #shapes)
else
  for _ in string.gmatch(marks, '1') do ids = ids + 1 end
end
local at = first_id + ids

-- What the window knows of these ids.
local known = {}
for number = bucket, math.max(1, bucket - ring + 2), -1 do
  local last_ms = redis.call('HGET', meta, 'dedup_last:' .. place_of(number))
  if last_ms and tonumber(last_ms) >= now_ms - window then
    local key = KEYS[3 + place_of(number)]
    for from = first_id, at - 1, CHUNK do
      local found = redis.call('HMGET', key, unpack(ARGV, from, math.min(from + CHUNK, at) - 1))
      for offset = 1, #found do
        if found[offset] then known[ARGV[from + offset - 1]] = found[offset] end
      end
    end
  end
end
is_plain = is_plain and not next(known)

local is_full = bucket == 0 or count >= capacity or now_ms - first_ms >= window / (ring - 2)
local filled = 3 + place_of(is_full and bucket + 1 or bucket)
local wrong = check_keys(2, 2, 'hash', 'HSET') or check_keys(filled, filled, 'hash', 'HSET', 'PEXPIRE', 'UNLINK')
  or check_keys(1, 1, 'stream', 'XADD', 'XDEL')
if wrong then return wrong end

-- Only now anything is written. All new records get one millisecond and follow each other.
local reply = {''}
local fresh, next_id = {}, first_id
local function undo(failed)
  if reply[1] ~= '' then take_back(stream, reply[1]) end
  return about_key(failed, stream)
end
if is_plain then -- the commonest case, at its full speed
  local call, entry = redis.pcall, nil
  for number = 1, #shapes do
    entry = call('XADD', stream, stamp, 'data', ARGV[at])
    if type(entry) == 'table' then return undo(entry) end
    if number == 1 then
      reply[1] = entry
      stamp = string.match(entry, '^%d+') .. '-*'
    end
    fresh[2 * number - 1], fresh[2 * number] = ARGV[at - ids], entry
    at = at + 1
  end
end
for number = 1, is_plain and 0 or #shapes do
  local id, entry = false, false
  if string.byte(marks, number) == 49 then
    id = ARGV[next_id]
    next_id = next_id + 1
    entry = known[id]
  end
  local shape = string.byte(shapes, number) - 48
  if entry then
    reply[#reply + 1] = number - 1
    reply[#reply + 1] = entry
    at = skip_record(shape, at)
  else
    entry, at = append_record(stream, stamp, shape, at)
    if type(entry) == 'table' then return undo(entry) end
    if reply[1] == '' then
      reply[1] = entry
      stamp = string.match(entry, '^%d+') .. '-*'
    end
    if id then
      known[id] = entry
      fresh[#fresh + 1] = id
      fresh[#fresh + 1] = entry
    end
  end
end
if #fresh == 0 then return reply end

if is_full then
  bucket, count, first_ms = bucket + 1, 0, now_ms
  redis.call('UNLINK', KEYS[3 + place_of(bucket)])
end
local key = KEYS[3 + place_of(bucket)]
for from = 1, #fresh, CHUNK do
  redis.call('HSET', key, unpack(fresh, from, math.min(from + CHUNK - 1, #fresh)))
end
if shift == 0 then redis.call('PEXPIRE', key, text(2 * window + 1)) end
redis.call('HSET', meta, 'dedup_at', text(bucket), 'dedup_count', text(count + #fresh / 2), 'dedup_first',
  text(first_ms), 'dedup_last:' .. place_of(bucket), text(now_ms))
return reply
