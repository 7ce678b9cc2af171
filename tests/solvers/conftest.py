from two_layers import nets

new_net = nets()
