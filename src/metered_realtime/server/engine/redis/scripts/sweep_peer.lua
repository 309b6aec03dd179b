-- uses: base peers
-- Ends the entries of a node that is gone.
sweep(NODE)
