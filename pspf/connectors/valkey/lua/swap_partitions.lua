-- Puts copied partitions in the place of a topic's, where it is still as it was when they were copied.
-- Its groups are done with the copies.
--
-- KEYS  1 pspf:topics  2.. the old partitions' streams; then keys to remove; then of each new partition:
--       the copied stream, the copied event ids; its stream, meta, first bucket of the ring, cursors, and
--       the meta of each cursor
-- ARGV  1 topic  2 its new value in pspf:topics  3 number of old partitions  4 number of keys to remove
--       5 number of new partitions  6 number of cursors of each  7 retention  8 generation
--       9 the newest time of an event id, or empty
--       10.. of each old partition: its last id, number of records that it ever had;
--       then of each cursor: its field in `cursors`, its group on the stream
-- Reply 1, or 0 where a record was appended meanwhile
-- Caller: repartition.py

local old, removed, fresh, cursors = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local function read_end(stream)
  if redis.call('EXISTS', stream) == 0 then return '0-0', '0' end
  local info = fields_of(redis.call('XINFO', 'STREAM', stream))
  return info['last-generated-id'], text(info['entries-added'])
end

for number = 1, old do
  local last, added = read_end(KEYS[1 + number])
  if last ~= ARGV[8 + number * 2] or added ~= ARGV[9 + number * 2] then return 0 end
end

-- What the new partitions are to be called may be another program's by now; the copies go there with RENAME.
local wrong = check_keys(1, 1, 'hash', 'HSET') or check_keys(2, 1 + old + removed, nil, 'UNLINK')
if wrong then return wrong end
local mine = {}
for number = 2, 1 + old + removed do mine[KEYS[number]] = true end
for number = 1, fresh do
  local base = 1 + old + removed + (number - 1) * (6 + cursors)
  wrong = check_keys(base + 1, base + 1, 'stream', 'RENAME')
    or check_keys(base + 2, base + 2, 'hash', 'RENAME', 'HLEN')
    or check_keys(base + 3, base + 3, nil, 'XGROUP CREATE', 'RENAME')
    or check_keys(base + 4, base + 4, 'hash', 'HSET') or check_keys(base + 5, base + 5, nil, 'RENAME')
    or check_keys(base + 6, base + 6 + cursors, 'hash', 'HSET')
  if wrong then return wrong end
  local stream = KEYS[base + 3]
  if not mine[stream] and redis.call('EXISTS', stream) == 1 then
    return redis.error_reply('WRONGTYPE ' .. stream .. ' is there already, where a new partition is to be')
  end
end

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for number = 2, 1 + old + removed do redis.call('UNLINK', KEYS[number]) end
for number = 1, fresh do
  local base = 1 + old + removed + (number - 1) * (6 + cursors)
  local copy, ids, stream, meta, bucket, registry = unpack(KEYS, base + 1, base + 6)
  if redis.call('EXISTS', copy) == 1 then redis.call('RENAME', copy, stream) end
  redis.call('HSET', meta, 'partitions', ARGV[5], 'retention', ARGV[7], 'generation', ARGV[8], 'cursors', ARGV[8])
  local count = redis.call('HLEN', ids)
  if count > 0 then
    redis.call('RENAME', ids, bucket)
    redis.call('HSET', meta, 'dedup_at', '1', 'dedup_count', text(count), 'dedup_first', ARGV[9], 'dedup_last:1', ARGV[9])
  end
  local last, added = read_end(stream)
  for cursor = 1, cursors do
    local at = 8 + old * 2 + cursor * 2
    redis.call('HSET', registry, ARGV[at], '')
    redis.call('XGROUP', 'CREATE', stream, ARGV[at + 1], last, 'MKSTREAM', 'ENTRIESREAD', added)
    redis.call('HSET', KEYS[base + 6 + cursor], 'position', after(last), 'passed', added, 'start', after(last),
      'before', last, 'seq', '0', 'epoch', '0', 'token', '', 'session', '', 'clean', '1', 'intent', '', 'commit_id', '',
      'last_commit_ms', '')
  end
end
return 1
