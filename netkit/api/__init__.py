"""The public functions of netkit, one per module. Call them as netkit.train, netkit.export_model, netkit.load, ..."""
