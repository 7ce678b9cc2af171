from two_layers import nets

new_net = nets(groups=5)  # so that a row is in no group
