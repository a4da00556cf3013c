// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IAuthorizedTransfers} from "../interfaces/IAuthorizedTransfers.sol";
import {IEscrowExtension, Relay} from "../interfaces/IComputeEscrow.sol";
import {IPermit2} from "../interfaces/IPermit2.sol";
import {Check} from "../libraries/Check.sol";
import {Extended} from "./Extended.sol";

/// @title Deposits
/// @notice More ways to deposit, by signatures that name this escrow as their receiver; withdrawals by signature; the fees.
abstract contract Deposits is Extended, IEscrowExtension {
    bytes32 private constant WITHDRAW_TYPEHASH = keccak256(
        "Withdraw(address account,address to,uint256 amount,uint64 salt,uint40 deadline,address relayer,uint96 fee)"
    );
    IPermit2 private constant PERMIT2 = IPermit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);

    /// @inheritdoc IEscrowExtension
    function depositFor(address account, uint256 amount) external forEscrow nonReentrant {
        if (account == address(0) || account == address(this)) revert InvalidRecipient(account);
        _deposit(account, amount);
    }

    /// @inheritdoc IEscrowExtension
    function depositWithAuthorization(
        address from,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external forEscrow nonReentrant {
        uint256 before = _holdingsBefore(amount);
        IAuthorizedTransfers(address(TOKEN))
            .receiveWithAuthorization(from, address(this), amount, validAfter, validBefore, nonce, v, r, s);
        _receive(from, amount, before);
    }

    /// @inheritdoc IEscrowExtension
    function depositWithPermit2(address from, uint256 amount, uint256 nonce, uint256 deadline, bytes calldata signature)
        external
        forEscrow
        nonReentrant
    {
        uint256 before = _holdingsBefore(amount);
        IPermit2.TokenPermissions memory permitted = IPermit2.TokenPermissions(address(TOKEN), amount);
        PERMIT2.permitTransferFrom(
            IPermit2.PermitTransferFrom(permitted, nonce, deadline),
            IPermit2.SignatureTransferDetails(address(this), amount),
            from,
            signature
        );
        _receive(from, amount, before);
    }

    /// @inheritdoc IEscrowExtension
    function withdrawBySignature(
        address account,
        address to,
        uint256 amount,
        Relay calldata relay,
        bytes calldata signature
    ) external forEscrow nonReentrant {
        bytes32 structHash = keccak256(
            abi.encode(WITHDRAW_TYPEHASH, account, to, amount, relay.salt, relay.deadline, relay.relayer, relay.fee)
        );
        if (!_signed(account, _hashTypedDataV4(structHash), signature)) revert InvalidSignature(account);
        if (relay.fee >= amount) Check.fail(amount, relay.fee, RelayFeeTooHigh.selector);
        _relayed(account, relay);
        _send(account, to, amount - relay.fee);
    }

    /// @inheritdoc IEscrowExtension
    function collectFees(address[] calldata providers) external forEscrow {
        for (uint256 i = 0; i < providers.length; i++) {
            uint256 fees = _accounts[providers[i]].fees;
            if (fees == 0) continue;

            _accounts[providers[i]].fees = 0;
            _credit(FEE_RECIPIENT, fees);

            emit FeesCollected(providers[i], FEE_RECIPIENT, fees);
        }
    }
}
