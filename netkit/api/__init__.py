"""The public functions of netkit, one module each. Use them as netkit.train, netkit.export_model, netkit.load, ..."""
