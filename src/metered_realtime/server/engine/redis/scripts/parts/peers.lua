-- The entries of a peer: a hash by connection, of node and key.

local function sweep(node)
  local all = redis.call('HGETALL', ENTRIES)
  for at = 1, #all, 2 do
    if all[at + 1]:match('^(.-)%z') == node then
      redis.call('HDEL', ENTRIES, all[at])
    end
  end
  redis.call('HDEL', NODES, node)
end
