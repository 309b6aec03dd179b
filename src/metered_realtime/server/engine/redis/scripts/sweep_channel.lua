-- uses: base members
-- Ends the entries of a node that is gone.
sweep(NODE)
