// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title IPermit2
/// @notice The one function of Permit2 that the escrow calls. Source: Uniswap's Permit2, `ISignatureTransfer`.
interface IPermit2 {
    struct TokenPermissions {
        address token;
        uint256 amount;
    }

    struct PermitTransferFrom {
        TokenPermissions permitted;
        uint256 nonce;
        uint256 deadline;
    }

    struct SignatureTransferDetails {
        address to;
        uint256 requestedAmount;
    }

    /// @notice Moves, once, what `owner` permitted the sender to move.
    function permitTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes calldata signature
    ) external;
}
