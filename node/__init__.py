"""The daemon: an I/O shell around protocol/, optim/ and workload/.

Lives here: identity and certificates, the DHT, two transports behind one seam, blobs, the state directory,
the trainer process, the admin service. May not live here: rules of the protocol, arithmetic of the outer
step, anything only a researcher needs. hivemind is imported in dht.py alone, grpc behind direct.py, link.py,
admin.py and serve.py.
Start at serve.py (how a node is put together), then daemon.py (events in, actions out), network.py (who is
who, and bytes), training.py (one contribution at a time), disk.py (what survives `kill -9`).
This package imports nothing by itself: hivemind and torch take seconds.
"""
