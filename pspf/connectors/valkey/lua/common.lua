-- Stands before every script.
--
-- A script that needs the time takes `now` among its arguments: empty for the server's clock, or a
-- number of milliseconds (a clock of the caller's, for tests). Leases then expire SHIFT later by the
-- server's clock: the caller's alone decides.

local SHIFT = 3153600000000

-- Returns the time in ms, what leases are shifted by, and the id of a new entry.
local function read_clock(now)
  if now == '' then
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000), 0, '*'
  end
  return tonumber(now), SHIFT, now .. '-*'
end

-- Numbers as Lua prints them lose digits and get exponents.
local function text(number)
  return string.format('%.0f', number)
end

-- Returns the ms that the lease behind a `live` key has left, 0 or less where it ended. Its value is the
-- whole lease in ms: more than that can't be left unless the clock stepped back, and then the full time counts again.
local function ms_left(key, now_ms, shift)
  local left = redis.call('PEXPIRETIME', key) - shift - now_ms
  if left <= 0 then return left end
  local lease_ms = tonumber(redis.call('GET', key) or '')
  if not lease_ms or left <= lease_ms then return left end
  redis.call('PEXPIREAT', key, text(now_ms + lease_ms + shift))
  return lease_ms
end

-- Whether the lease behind a `live` key lasts.
local function is_alive(key, now_ms, shift)
  return ms_left(key, now_ms, shift) > 0
end

-- Compares two digit strings without turning them into numbers, which hold 53 bits.
local function less_digits(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

-- Whether entry id a is before entry id b.
local function is_before(a, b)
  local a_high, a_low = string.match(a, '^(%d+)-(%d+)$')
  local b_high, b_low = string.match(b, '^(%d+)-(%d+)$')
  if a_high ~= b_high then return less_digits(a_high, b_high) end
  return less_digits(a_low, b_low)
end

-- The next id after an entry's.
local function after(id)
  local high, low = string.match(id, '^(%d+)-(%d+)$')
  local digits, carry = {}, 1
  for at = #low, 1, -1 do
    local digit = string.byte(low, at) - 48 + carry
    carry = digit == 10 and 1 or 0
    digits[at] = digit == 10 and '0' or string.char(48 + digit)
  end
  return high .. '-' .. (carry == 1 and '1' or '') .. table.concat(digits)
end

-- Returns an error where one of KEYS holds another kind of value (nil: any will do), or the user may not run one of
-- the commands on it. Asked before the first write: what fails in the middle of a script leaves a half behind.
local function check_keys(first, last, wanted, ...)
  for number = first, last do
    local key = KEYS[number]
    local kind = wanted and redis.call('TYPE', key)['ok']
    if kind ~= wanted and kind ~= 'none' then
      return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. kind .. ' and no ' .. wanted)
    end
    for at = 1, select('#', ...) do
      local command = select(at, ...)
      local may
      if string.sub(command, 1, 7) == 'XGROUP ' then
        may = redis.acl_check_cmd('XGROUP', string.sub(command, 8), key)
      else
        may = redis.acl_check_cmd(command, key)
      end
      if not may then
        return redis.error_reply('NOPERM this user has no permissions to run ' .. command .. ' on the key ' .. key)
      end
    end
  end
end

-- Whether the stream has the consumer group, and the summary of what is pending there. An error that says anything
-- else than that there is none says nothing of the group: it is the script's.
local function has_group(stream, group)
  local summary = redis.pcall('XPENDING', stream, group)
  if not summary['err'] then return true, summary end
  if string.find(summary['err'], 'NOGROUP', 1, true) == 1 then return false end
  error(summary)
end

-- Removes what this script has appended to a stream: all from its first id on.
local function take_back(stream, first)
  local entries
  repeat
    entries = redis.call('XRANGE', stream, first, '+', 'COUNT', 100)
    for _, entry in ipairs(entries) do redis.call('XDEL', stream, entry[1]) end
  until #entries < 100
end

-- An error as the script's reply, with the key that it is about.
local function about_key(failed, key)
  return redis.error_reply(failed['err'] .. ' (key ' .. key .. ')')
end

local PARTS = {'key', 'headers', 'ts'}

-- Appends one packed record (fields.pack_records) of a shape, whose parts are in ARGV from index `at` on.
-- Returns its id, or the error as a table, and the index behind its parts.
local function append_record(stream, stamp, shape, at)
  if shape == 0 then
    return redis.pcall('XADD', stream, stamp, 'data', ARGV[at]), at + 1
  end
  if shape == 1 then
    return redis.pcall('XADD', stream, stamp, 'data', ARGV[at], 'key', ARGV[at + 1]), at + 2
  end
  local fields = {'data', ARGV[at]}
  at = at + 1
  for bit, name in ipairs(PARTS) do
    if math.floor(shape / 2 ^ (bit - 1)) % 2 == 1 then
      fields[#fields + 1] = name
      fields[#fields + 1] = ARGV[at]
      at = at + 1
    end
  end
  return redis.pcall('XADD', stream, stamp, unpack(fields)), at
end

-- The index behind a packed record's parts.
local function skip_record(shape, at)
  return at + 1 + shape % 2 + math.floor(shape / 2) % 2 + math.floor(shape / 4)
end

-- Appends packed records: `shapes`, and their parts in ARGV from index `at` on, all or none. All get one
-- millisecond and follow each other, so that the first id says all.
-- Returns the first id (false without records) or an error as the script's reply, and the index behind the last part.
local function append_records(stream, stamp, shapes, at)
  local first, id = false, false
  local call, count = redis.pcall, #shapes
  for number = 1, count do
    id, at = append_record(stream, stamp, string.byte(shapes, number) - 48, at)
    if type(id) == 'table' then break end
    if count == 1 then return id, at end
    if not first then
      first = id
      stamp = string.match(id, '^%d+') .. '-*'
      if not string.find(shapes, '[^0]') then -- the commonest shape, at its full speed
        for part = at, at + count - 2 do
          id = call('XADD', stream, stamp, 'data', ARGV[part])
          if type(id) == 'table' then break end
        end
        at = at + count - 1
        break
      end
    end
  end
  if type(id) ~= 'table' then return first, at end
  if first then take_back(stream, first) end
  return about_key(id, stream), at
end

-- Sorts ids of entries. Each is split once: a comparison that splits both is most of the price of sorting many.
local function sort_ids(ids)
  local keys = {}
  for _, id in ipairs(ids) do
    local high, low = string.match(id, '^(%d+)-(%d+)$')
    keys[id] = string.rep('0', 20 - #high) .. high .. string.rep('0', 20 - #low) .. low
  end
  table.sort(ids, function(a, b) return keys[a] < keys[b] end)
  return ids
end

-- Counts entries from the start of a range on, as XRANGE takes it: at most about `most` of them, and not many bytes.
-- Returns the number and the start of the rest, nil where there is none.
local function count_from(stream, from, most)
  local count, bytes, page = 0, 0, 8
  while count < most and bytes < 2000000 do
    local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', page)
    count = count + #entries
    if #entries < page then return count, nil end
    local of_page = 0
    for _, entry in ipairs(entries) do of_page = of_page + #entry[2][2] end
    bytes, from = bytes + of_page, '(' .. entries[page][1]
    if of_page < 100000 then page = math.min(2 * page, 500) end
  end
  return count, from
end

-- A list of names and values as a table.
local function fields_of(list)
  local found = {}
  for at = 1, #list, 2 do found[list[at]] = list[at + 1] end
  return found
end
