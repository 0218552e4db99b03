-- All that a batch of an ordered cursor did, or of the cursors of a handler of several topics: all of it or none of
-- it. The checks, in this order: of each cursor the lease, a commit sent again, the sequence, the stream; the targets,
-- the types, what the user may; behind them nothing fails but an append, and where one does all of them are taken back.
--
-- KEYS  1 spaces of the first cursor, which alone has entries and effects; of each cursor: stream, meta, due, retry,
--       the partition's meta; then the keys of entries (entries.lua), then those of the effects (effects.lua)
-- ARGV  1 now  2 commit id  3 number of cursors  4 number of streams of effects  5 number of arguments of the effects
--       6 number of namespaces that are written  7 number of dropped ones
--       8 '1' where the operator's progress is written  9 its watermark or ''  10 progress
--       of each cursor:  its group on the stream, token, epoch, sequence,
--         position, or '' where it stays, the id before it, how many records passed, '' unknown,
--         limit, left of the suspicion ('' none, '=' as they are: a batch runs),
--         '1' to look whether records were removed from outside before they were read,
--         number of records done, of those that waited, number of retries,
--         then the ids done; per retry: id, due ('+inf' held back), packed
--       then the entries (entries.lua) and the effects (effects.lua)
-- Reply {'OK', of each cursor: sequence, how many records passed, '' unknown, how many of them were removed unread}
--       {'FENCED', number of the cursor} {'STALE', number, sequence} {'GONE', number}
--       {'MOVED', numbers of the streams of effects whose topic has other partitions or is not there}
-- Caller: commits.py

local FIELDS, KEYS_OF_ONE = 12, 5
local commit_id, cursors, streams = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local written, dropped = tonumber(ARGV[6]), tonumber(ARGV[7])
local first_entries = 2 + KEYS_OF_ONE * cursors
local first_stream = first_entries + 2 * (written + dropped)

-- The index behind what ARGV says of a cursor.
local function behind(at)
  return at + FIELDS + ARGV[at + 10] + 3 * ARGV[at + 11]
end

local parts, at, sent_before = {}, 11, 0
for number = 1, cursors do
  local key = 2 + KEYS_OF_ONE * (number - 1)
  local found = redis.call('HMGET', KEYS[key + 1], 'token', 'epoch', 'commit_id', 'seq', 'position', 'passed')
  local sequence = found[4]
  if not sequence then return {'GONE', number} end
  if found[1] ~= ARGV[at + 1] or found[2] ~= ARGV[at + 2] then return {'FENCED', number} end
  if found[3] == commit_id then
    sent_before = sent_before + 1
  else
    if sequence ~= ARGV[at + 3] then return {'STALE', number, sequence} end
    if not has_group(KEYS[key], ARGV[at]) then return {'GONE', number} end
  end
  parts[number] = {key = key, at = at, sequence = sequence, position = found[5], passed = found[6] or ''}
  at = behind(at)
end
if sent_before > 0 then
  local reply = {'OK'}
  for number, part in ipairs(parts) do
    reply[3 * number - 1], reply[3 * number], reply[3 * number + 1] = part.sequence, part.passed, 0
  end
  return reply
end

local effects = #ARGV - tonumber(ARGV[5]) + 1
local moved = find_moved(first_stream - 1, streams, effects)
if moved then return moved end

local wrong
for _, part in ipairs(parts) do
  local key = part.key
  wrong = wrong or check_keys(key, key, 'stream', 'XGROUP SETID') or check_keys(key + 1, key + 1, 'hash', 'HSET')
    or check_keys(key + 2, key + 2, 'zset', 'ZADD', 'ZREM') or check_keys(key + 3, key + 3, 'hash', 'HSET', 'HDEL')
    or check_keys(key + 4, key + 4, 'hash', 'HINCRBY')
end
wrong = wrong or written + dropped > 0 and (check_keys(1, 1, 'set', 'SADD', 'SREM')
    or check_keys(first_entries, first_entries + written - 1, 'hash', 'HSET', 'HDEL')
    or check_keys(first_entries + written, first_entries + 2 * written - 1, 'zset', 'ZADD', 'ZREM')
    or check_keys(first_entries + 2 * written, first_stream - 1, nil, 'UNLINK'))
  or check_keys(first_stream, first_stream + streams - 1, 'stream', 'XADD', 'XDEL')
if wrong then return wrong end

-- How many records passed by now, where that can be known and some may have been removed from outside: behind the last
-- one it is all that were ever added; else what was removed, and what is left before the position.
local function count_passed(part, stream, position)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local is_behind = first and is_before(part.position, first[1])
  if not is_behind and ARGV[part.at + 9] ~= '1' then return nil end
  local info = fields_of(redis.call('XINFO', 'STREAM', stream))
  if not is_before(info['max-deleted-entry-id'], position) then return nil end
  if is_before(info['last-generated-id'], position) then return info['entries-added'] end
  local removed = info['entries-added'] - info['length']
  if not is_behind or not is_before(first[1], position) or removed <= tonumber(part.passed) then return nil end
  return removed + #redis.call('XRANGE', stream, '-', '(' .. position)
end

local reply = {'OK'}
for _, part in ipairs(parts) do
  local position, passed, lost = ARGV[part.at + 4], ARGV[part.at + 6], 0
  if position ~= '' and passed ~= '' and part.passed ~= '' then
    local found = count_passed(part, KEYS[part.key], position)
    if found then
      lost = math.max(0, found - passed)
      passed = text(found)
    end
  end
  part.now_passed = passed
  reply[#reply + 1] = text(part.sequence + 1)
  reply[#reply + 1] = passed
  reply[#reply + 1] = lost
end

local now_ms, _, stamp = read_clock(ARGV[1])
-- The first write is one that the server refuses when out of memory, with effects and without.
local failed = append_effects(first_stream - 1, streams, effects, stamp, {})
if failed then return failed end

local function write_cursor(part, sequence, lost)
  local stream, meta, due, retry = KEYS[part.key], KEYS[part.key + 1], KEYS[part.key + 2], KEYS[part.key + 3]
  local from, passed = part.at, part.now_passed
  local position, done, retries = ARGV[from + 4], tonumber(ARGV[from + 10]), tonumber(ARGV[from + 11])
  redis.call('HSET', meta, 'seq', sequence, 'commit_id', commit_id, 'last_commit_ms', text(now_ms))
  if ARGV[from + 7] ~= '=' then
    redis.call('HSET', meta, 'limit', ARGV[from + 7], 'left', ARGV[from + 8], 'crashes', '0', 'intent', '')
  end
  if position ~= '' then
    redis.call('HSET', meta, 'position', position, 'passed', passed)
    if passed ~= '' then
      redis.call('XGROUP', 'SETID', stream, ARGV[from], ARGV[from + 5], 'ENTRIESREAD', passed)
    else
      redis.call('XGROUP', 'SETID', stream, ARGV[from], ARGV[from + 5])
    end
  end
  if lost > 0 then redis.call('HINCRBY', KEYS[part.key + 4], 'lost', lost) end
  local place = from + FIELDS
  for number = place, place + done - 1 do
    redis.call('ZREM', due, ARGV[number])
    redis.call('HDEL', retry, ARGV[number], '+' .. ARGV[number])
  end
  place = place + done
  for _ = 1, retries do
    redis.call('ZADD', due, ARGV[place + 1], ARGV[place])
    redis.call('HSET', retry, ARGV[place], ARGV[place + 2])
    place = place + 3
  end
end

for number, part in ipairs(parts) do write_cursor(part, reply[3 * number - 1], reply[3 * number + 1]) end
if ARGV[8] == '1' then redis.call('HSET', KEYS[3], 'watermark_ms', ARGV[9], 'progress', ARGV[10]) end
write_entries(KEYS[1], first_entries - 1, written, dropped, at)
return reply
