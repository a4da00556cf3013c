// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title IAuthorizedTransfers
/// @notice The one function of EIP-3009 that the escrow calls.
interface IAuthorizedTransfers {
    /// @notice Moves `value` from `from` to the sender, which must be `to`, once.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;
}
