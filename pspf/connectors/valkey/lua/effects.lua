-- What a commit appends: emitted records and dead letters. Stands before commit_shared and commit_ordered.
--
-- In KEYS behind `base`: the `count` streams, then the meta of each one's partition. In ARGV, from some index on, for
-- each stream: its shapes (fields.pack_records), which record of the commit each one comes from, as numbers with
-- spaces between (empty where none is conditional; 0 for a record that always counts), and how many partitions its
-- topic has, as far as the caller knows; then, stream after stream, the parts of the records.

-- Returns the numbers of the streams whose topic is not there or has other partitions, nil where there are none.
local function find_moved(base, count, at)
  local moved
  for number = 1, count do
    if redis.call('HGET', KEYS[base + count + number], 'partitions') ~= ARGV[at + 3 * number - 1] then
      moved = moved or {'MOVED'}
      moved[#moved + 1] = number
    end
  end
  return moved
end

-- Appends to the streams what comes from records that are not `lost` (a set of their numbers): all or none.
-- Returns an error as the script's reply where one of them can't be appended: nothing is, then. Comes before all else
-- that a script writes, as the ids of a stream may come to their end, which nobody can see before.
local function append_effects(base, count, at, stamp, lost)
  local part, firsts = at + 3 * count, {}
  local function undo(failed)
    for number, first in pairs(firsts) do take_back(KEYS[base + number], first) end
    return failed
  end
  for number = 1, count do
    local stream, shapes, sources = KEYS[base + number], ARGV[at], ARGV[at + 1]
    at = at + 3
    if sources == '' or not next(lost) then
      local first
      first, part = append_records(stream, stamp, shapes, part)
      if type(first) == 'table' then return undo(first) end
      firsts[number] = first or nil
    else
      local place = 0
      for source in string.gmatch(sources, '%d+') do
        place = place + 1
        local shape = string.byte(shapes, place) - 48
        if lost[tonumber(source)] then
          part = skip_record(shape, part)
        else
          local id
          id, part = append_record(stream, stamp, shape, part)
          if type(id) == 'table' then return undo(about_key(id, stream)) end
          firsts[number] = firsts[number] or id
        end
      end
    end
  end
end
