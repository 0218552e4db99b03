-- Gives a session what is there beside the stream's new records: what dead sessions had in hand
-- (suspect), what was given back, and the retries that are due. What it gives is pending on the session; a replayed
-- record, of which the stream has no entry, is lent to it instead.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 suspects  6 lent, then the `live` keys of the sessions in ARGV
-- ARGV  1 now  2 group  3 session  4 number of records at most, then other sessions of the group
-- Reply {takes, ms until the next retry is due (-1: none), entries, attempts of each that has some
--       (id, packed retry, ...), '1' where they are suspect, crashes of a suspect,
--       '1' to call again at once, the sessions of the group where ARGV lacks some (then nothing was given),
--       entries found deleted, number of records that were pending on the session before, or lent to it}
--       An entry of three parts is a replayed record, packed (replayed.py) where a value of its fields would be.
--       or {'GONE'} where there is no such group any more.
-- Caller: shared.py

local STEP = 1000
local OF_SESSION = 5 -- what a dead session costs beside its records, in records
local MANY_BYTES = 2000000
local PAGE = 64
local NOT_TOLD = ''
local OF_LABEL = 4 -- a page goes on to the next where one of so many in it is of the label
local RETRIES = 500 -- each is several commands: as many as are done in a moment

local stream, meta, due, retry, suspects, lent = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local group, session, limit = ARGV[2], ARGV[3], tonumber(ARGV[4])
local now_ms, shift = read_clock(ARGV[1])
local is_own_clock = ARGV[1] ~= ''

if not has_group(stream, group) then return {'GONE'} end
local consumers = redis.call('XINFO', 'CONSUMERS', stream, group)
if redis.call('HEXISTS', meta, 'start') == 0 then return {'GONE'} end

local wrong = check_keys(1, 1, 'stream', 'XACK', 'XCLAIM', 'XGROUP DELCONSUMER')
  or check_keys(2, 2, 'hash', 'HSET', 'HDEL', 'HINCRBY') or check_keys(3, 3, 'zset', 'ZADD', 'ZREM', 'ZRANGE')
  or check_keys(4, 6, 'hash', 'EXISTS', 'HGET', 'HSET', 'HDEL')
if wrong then return wrong end

-- Puts a step of what a dead session had in hand up for others, each record as suspect. Of those
-- that were running alone one ended the process: they are halved, and one alone is charged.
-- Returns whether anything is left: all dead sessions together get one step a call.
local left = STEP
local of_lent = {} -- session -> ids of the replayed records that it has
local function take_over(name)
  if left <= 0 then return true end
  local most = left
  local rows = redis.call('XPENDING', stream, group, '-', '+', most, name)
  left = left - #rows - OF_SESSION
  if #rows > 0 or of_lent[name] then
    local started = redis.call('HGET', meta, 's:' .. name) or ''
    local label, count, middle = string.match(started, '^(%S+) (%d+) (%S+)$')
    local function accuse(id)
      local suspicion = redis.call('HGET', suspects, id)
      local of, crashes = string.match(suspicion or '', '^(%S+) (%d+)$')
      if not of then
        of, crashes = name, 0
      elseif of == label then
        if count == '1' then
          crashes = crashes + 1
        else
          of = label .. (is_before(middle, id) and '/2' or '/1')
        end
      end
      redis.call('HSET', suspects, id, of .. ' ' .. text(tonumber(crashes)))
      redis.call('ZADD', due, -2, id)
    end
    for number = 1, #rows do
      accuse(rows[number][1])
      redis.call('XACK', stream, group, rows[number][1])
    end
    for _, id in ipairs(of_lent[name] or {}) do
      accuse(id)
      redis.call('HDEL', lent, id)
    end
    of_lent[name] = nil
    redis.call('HINCRBY', meta, 'takes', 1)
  end
  if #rows == most then return true end
  redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
  redis.call('HDEL', meta, 'c:' .. name, 'l:' .. name, 's:' .. name)
  return false
end

local live = {}
for number = 5, #ARGV do live[ARGV[number]] = KEYS[number + 2] end
local all, own, is_known = {}, 0, {}
for number, consumer in ipairs(consumers) do
  local fields = fields_of(consumer)
  local name = fields['name']
  all[number], is_known[name] = name, true
  if name == session then own = fields['pending'] end
end
local borrowed = redis.call('HGETALL', lent)
for at = 1, #borrowed, 2 do
  local id, name = borrowed[at], borrowed[at + 1]
  of_lent[name] = of_lent[name] or {}
  table.insert(of_lent[name], id)
  if not is_known[name] then all[#all + 1], is_known[name] = name, true end
end
own = own + #(of_lent[session] or {})
local names, has_unknown, is_more = {}, false, false
for _, name in ipairs(all) do
  if name ~= session and string.match(name, '^[%w._-]+%-%d+%-%x%x%x%x%x%x$') then
    names[#names + 1] = name
    if not live[name] then
      has_unknown = true
    elseif not is_alive(live[name], now_ms, shift) then
      is_more = take_over(name) or is_more
    end
  end
end
-- A session that is not known may be dead, and what it had in hand comes first.
if has_unknown then
  return {redis.call('HGET', meta, 'takes') or '0', -1, {}, {}, '0', 0, '1', names, 0, own}
end

local deleted = 0
-- Makes records pending on this session, as many of them as are not too large together; returns the entries of those
-- that are still in the stream.
local function claim(ids)
  local entries, from, page, bytes = {}, 1, 8, 0
  while from <= #ids and bytes < MANY_BYTES do
    local last, of_page, there = math.min(from + page - 1, #ids), 0, {}
    local function add(entry)
      entries[#entries + 1] = entry
      there[entry[1]] = true
      of_page = of_page + #entry[2][2]
    end
    local command = {'XCLAIM', stream, group, session, 0}
    for number = from, last do command[#command + 1] = ids[number] end
    command[#command + 1] = 'FORCE'
    if is_own_clock then
      command[#command + 1] = 'TIME'
      command[#command + 1] = ARGV[1]
    end
    for _, entry in ipairs(redis.call(unpack(command))) do add(entry) end
    redis.call('ZREM', due, unpack(ids, from, last))
    for number = from, last do
      local record = not there[ids[number]] and redis.call('HGET', retry, '+' .. ids[number])
      if record then
        redis.call('HSET', lent, ids[number], session)
        add({ids[number], {'', record}, 1})
      elseif not there[ids[number]] then
        redis.call('HDEL', retry, ids[number])
        redis.call('HDEL', suspects, ids[number])
        deleted = deleted + 1
      end
    end
    from, bytes = last + 1, bytes + of_page
    if of_page < 100000 then page = math.min(2 * page, 1000) end
  end
  return entries
end

local function in_order(ids)
  return sort_ids(ids)
end

-- Suspects of one label, which ran together; others are for the next call. What dead sessions had in hand, and nobody
-- said that it would run, is of one label, from any session: together or apart, none of it is charged. Looks through pages while many of
-- what it sees are of that label: with very many labels it would look at all of them for a few records each time.
local to_look_at, crashes = STEP, 0
local function choose_suspects()
  local chosen, label, from, page = {}, nil, 0, PAGE
  while to_look_at > 0 do
    local ids = in_order(redis.call('ZRANGEBYSCORE', due, -2, -2, 'LIMIT', from, math.min(page, to_look_at)))
    local of_label = 0
    for _, id in ipairs(ids) do
      local of, times = string.match(redis.call('HGET', suspects, id) or '', '^(%S+) (%d+)$')
      if not of or (times == '0' and not string.find(of, '#', 1, true)) then of = NOT_TOLD end
      label = label or of
      if of == label and #chosen < limit then
        chosen[#chosen + 1] = id
        crashes = tonumber(times or 0)
        of_label = of_label + 1
      end
    end
    from, to_look_at = from + #ids, to_look_at - #ids
    if #ids < page or #chosen == limit or OF_LABEL * of_label < #ids then break end
    page = 2 * page
  end
  return chosen
end

local entries, is_suspect = {}, false
repeat
  local accused = choose_suspects()
  if #accused > 0 then entries = claim(accused) end
  is_suspect = #entries > 0
until is_suspect or #accused == 0
if not is_suspect and to_look_at <= 0 then is_more = true end
if #entries == 0 then
  local most = math.min(limit, RETRIES)
  entries = claim(in_order(redis.call('ZRANGEBYSCORE', due, -1, text(now_ms), 'LIMIT', 0, most)))
end

local packed = {}
if #entries > 0 and redis.call('EXISTS', retry) == 1 then
  for _, entry in ipairs(entries) do
    local found = redis.call('HGET', retry, entry[1])
    if found then
      packed[#packed + 1] = entry[1]
      packed[#packed + 1] = found
    end
  end
end
if deleted > 0 then redis.call('HINCRBY', meta, 'gone', deleted) end

local next_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
local wait_ms = -1
if next_due[2] then wait_ms = math.max(0, math.ceil(next_due[2] - now_ms)) end
return {
  redis.call('HGET', meta, 'takes') or '0', wait_ms, entries, packed, is_suspect and '1' or '0', crashes,
  is_more and '1' or '0', {}, deleted, own,
}
