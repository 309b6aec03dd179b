-- What every script of a channel or a peer begins with. KEYS: meta, log, entries, nodes, and of a channel order.
local META, LOG, ENTRIES, NODES, ORDER = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local INBOX, APP, NAME, NODE, REQUEST, FRESH = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local ENTRY_MS, KEEP_MS = tonumber(ARGV[7]), tonumber(ARGV[8])
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)

-- Return epoch, seq and offset. Begins a count if there is none.
local function open()
  local found = redis.call('HMGET', META, 'epoch', 'seq', 'offset')
  if found[1] then
    return found[1], tonumber(found[2]), tonumber(found[3])
  end
  redis.call('HSET', META, 'epoch', FRESH, 'seq', 0, 'offset', 0, 'bytes', 0, 'order', 0)
  redis.call('DEL', LOG)
  return FRESH, 0, 0
end

local function keep()
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, KEEP_MS)
  end
end

local function text(kind, epoch, seq, offset, tail)
  return table.concat({kind, APP, NAME, epoch, seq, offset, NODE, REQUEST, tail}, '\0')
end

local function tell(item)
  for _, node in ipairs(redis.call('HKEYS', NODES)) do
    redis.call('PUBLISH', INBOX .. node, item)
  end
end

local function tell_own(item)
  redis.call('PUBLISH', INBOX .. NODE, item)
end

-- Netstrings, whose content may be anything.
local function pack(value)
  return #value .. ':' .. value
end

-- A node with entries has a field with their number and the time until which they count.
local function node_state(node)
  local found = redis.call('HGET', NODES, node)
  if not found then
    return 0, 0
  end
  local count, expires = found:match('^(%d+) (%d+)$')
  return tonumber(count), tonumber(expires)
end

local function count_node(node, change)
  local count, expires = node_state(node)
  if node == NODE then
    expires = NOW + ENTRY_MS
  end
  if count + change > 0 then
    redis.call('HSET', NODES, node, string.format('%d %.0f', count + change, expires))
  else
    redis.call('HDEL', NODES, node)
  end
end
