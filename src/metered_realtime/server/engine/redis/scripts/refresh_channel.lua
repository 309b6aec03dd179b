-- uses: base members
-- Keeps the entries of a node, ends those of nodes that no longer do so, and returns how many entries the node has.
local count, expires = node_state(NODE)
if count > 0 then
  redis.call('HSET', NODES, NODE, string.format('%d %.0f', count, NOW + ENTRY_MS))
end
for _, node in ipairs(redis.call('HKEYS', NODES)) do
  count, expires = node_state(node)
  if expires < NOW then
    sweep(node)
  end
end
keep()
return (node_state(NODE))
