"""What a peer does in each of its roles: plain functions over the state in `atoll.protocol.peer.Peer`.

rounds.py enters rounds and views; chain.py takes in commits, states and joiners; worker.py trains and offers;
owner.py sums parts; voter.py agrees; leader.py brings a round to its commit; repeat.py says again what may
have been lost. leader imports chain, everything imports rounds, nothing imports back.

Each has a `react`, which `Peer.handle` calls after every event: it does what has become possible, and nothing
if nothing has. Handlers only take note.
"""
