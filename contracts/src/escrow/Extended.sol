// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Numbered, Relay} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Leases} from "./Leases.sol";

/// @title Extended
/// @notice What the parts of the extension have in common.
abstract contract Extended is Leases {
    address private immutable SELF = address(this);

    /// @dev Reverts unless the escrow runs this code.
    modifier forEscrow() {
        if (address(this) == SELF) revert NotTheEscrow(SELF);
        _;
    }

    /// @dev Takes the number of a call that the account signed and pays the sender's fee; the account has consented.
    function _relayed(address account, Relay calldata relay) internal {
        Check.atMost(relay.deadline, block.timestamp, SignatureExpired.selector);
        if (relay.relayer != address(0) && relay.relayer != msg.sender) revert NotRelayer(relay.relayer, msg.sender);
        (uint256 word, uint256 used) = _saltBits(Numbered.Calls, relay.salt);
        uint256 bits = _salts[account][word];
        if (bits & (used | (used << 1)) != 0 || relay.salt < _callsFrom[account]) revert CallUsed(account, relay.salt);

        _salts[account][word] = bits | used;
        _debit(account, relay.fee);
        _credit(msg.sender, relay.fee);

        emit Relayed(account, msg.sender, relay.salt, relay.fee);
    }
}
