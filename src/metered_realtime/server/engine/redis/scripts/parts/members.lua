-- The entries of a channel: a hash by connection, and a sorted set of all by peer and order, whose last of a peer counts.

local function place(peer, order, connection)
  return peer .. '\0' .. string.format('%016d', order) .. '\0' .. connection
end

-- Return the metadata of a peer's latest entry, or nil.
local function latest(peer)
  local found = redis.call('ZREVRANGEBYLEX', ORDER, '(' .. peer .. '\1', '[' .. peer .. '\0', 'LIMIT', 0, 1)
  if not found[1] then
    return nil
  end
  local entry = redis.call('HGET', ENTRIES, found[1]:sub(#peer + 19))
  return entry and cmsgpack.unpack(entry)[4]
end

-- Add an entry or change it. Return whether the peer is new or looks different now, and whether the node had it.
local function put(peer, connection, metadata)
  local before, found = latest(peer), redis.call('HGET', ENTRIES, connection)
  local order, had = nil, false
  if found then
    local entry = cmsgpack.unpack(found)
    had = entry[2] == NODE
    if entry[3] == peer and entry[4] == metadata then
      order = entry[1]
    else
      redis.call('ZREM', ORDER, place(entry[3], entry[1], connection))
    end
    count_node(entry[2], -1)
  end
  order = order or redis.call('HINCRBY', META, 'order', 1)
  redis.call('HSET', ENTRIES, connection, cmsgpack.pack({order, NODE, peer, metadata}))
  redis.call('ZADD', ORDER, 0, place(peer, order, connection))
  count_node(NODE, 1)
  return before ~= latest(peer), had
end

-- Remove an entry. Return its peer, or nil.
local function drop(connection)
  local found = redis.call('HGET', ENTRIES, connection)
  if not found then
    return nil
  end
  local entry = cmsgpack.unpack(found)
  redis.call('HDEL', ENTRIES, connection)
  redis.call('ZREM', ORDER, place(entry[3], entry[1], connection))
  count_node(entry[2], -1)
  return entry[3]
end

-- Return all peers with their metadata, in the order in which they came, as a flat list.
local function members()
  local all, newest, peers = redis.call('HGETALL', ENTRIES), {}, {}
  for at = 2, #all, 2 do
    local entry = cmsgpack.unpack(all[at])
    local known = newest[entry[3]]
    if not known then
      peers[#peers + 1] = entry[3]
      newest[entry[3]] = entry
    elseif known[1] < entry[1] then
      newest[entry[3]] = entry
    end
  end
  table.sort(peers, function(one, other) return newest[one][1] < newest[other][1] end)
  local flat = {}
  for _, peer in ipairs(peers) do
    flat[#flat + 1] = peer
    flat[#flat + 1] = newest[peer][4]
  end
  return flat
end

-- Count a change of presence and tell it. `joined` and `left` are flat lists of peers with metadata or a flag.
local function announce(joined, left)
  local found = redis.call('HMGET', META, 'epoch', 'offset')
  local seq = redis.call('HINCRBY', META, 'seq', 1)
  local tail = {pack(tostring(#joined / 2))}
  for _, list in ipairs({joined, left}) do
    for _, value in ipairs(list) do
      tail[#tail + 1] = pack(value)
    end
  end
  local item = text('p', found[1], seq, found[2], table.concat(tail))
  tell(item)
  return item
end

-- Remove all entries of a node, and tell it.
local function sweep(node)
  local all, before = redis.call('HGETALL', ENTRIES), {}
  for at = 1, #all, 2 do
    local entry = cmsgpack.unpack(all[at + 1])
    if entry[2] == node then
      before[entry[3]] = before[entry[3]] or latest(entry[3])
      drop(all[at])
    end
  end
  redis.call('HDEL', NODES, node)
  local joined, left = {}, {}
  for peer, metadata in pairs(before) do
    local after = latest(peer)
    local list = after and joined or left
    if after ~= metadata then
      list[#list + 1] = peer
      list[#list + 1] = after or ''
    end
  end
  if #joined + #left > 0 then
    open()
    announce(joined, left)
  end
end
