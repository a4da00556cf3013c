// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IEscrowExtension, Purse} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";
import {Extended} from "./Extended.sol";

/// @title Purses
/// @notice Accounts without a key, for agents and teams: an operator signs their bids and can lose no more than was put in.
abstract contract Purses is Extended, IEscrowExtension {
    /// @inheritdoc IEscrowExtension
    function createPurse(address operator, uint64 salt, uint40 expiry, uint256 amount)
        external
        forEscrow
        returns (address account)
    {
        if (operator == address(0)) revert InvalidParty(operator);
        Check.atMost(expiry, block.timestamp, PurseExpired.selector);
        account = _purseOf(msg.sender, operator, salt);
        if (_purses[account].owner != address(0)) revert PurseExists(account);

        _purses[account] = Purse(msg.sender, expiry, operator);

        emit PurseCreated(account, msg.sender, operator, salt, expiry);
        if (amount > 0) _fundPurse(account, amount);
    }

    /// @inheritdoc IEscrowExtension
    function fundPurse(address account, uint256 amount) external forEscrow {
        _requireOwner(account);
        if (amount == 0) revert ZeroAmount();
        _fundPurse(account, amount);
    }

    function _fundPurse(address account, uint256 amount) private {
        _debit(msg.sender, amount);
        _credit(account, amount);

        emit PurseFunded(account, msg.sender, amount);
    }

    /// @inheritdoc IEscrowExtension
    function sweepPurse(address account, uint256 amount) external forEscrow {
        _requireOwner(account);
        if (amount == 0) revert ZeroAmount();

        _debit(account, amount);
        _credit(msg.sender, amount);

        emit PurseSwept(account, msg.sender, amount);
    }

    /// @inheritdoc IEscrowExtension
    function expirePurse(address account, uint40 expiry) external forEscrow {
        uint40 present = _requireOwner(account).expiry;
        if (expiry >= present) revert ExpiryNotEarlier(present, expiry);

        _purses[account].expiry = expiry;

        emit PurseExpiryMoved(account, expiry);
    }

    /// @inheritdoc IEscrowExtension
    function purse(address account) external view returns (Purse memory) {
        return _purses[account];
    }

    /// @inheritdoc IEscrowExtension
    function purseOf(address owner, address operator, uint64 salt) external view returns (address) {
        return _purseOf(owner, operator, salt);
    }

    function _purseOf(address owner, address operator, uint64 salt) private view returns (address) {
        return address(uint160(uint256(keccak256(abi.encode(_domainSeparatorV4(), owner, operator, salt)))));
    }

    function _requireOwner(address account) private view returns (Purse storage box) {
        box = _purses[account];
        if (box.owner == address(0)) revert UnknownPurse(account);
        if (box.owner != msg.sender) revert NotPurseOwner(box.owner, msg.sender);
    }
}
